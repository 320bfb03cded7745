"""Makes the weights of the network that corrects the propagated fill."""

"""The whole system in a few minutes: render, prepare, train, evaluate, inpaint, and a page that shows it."""

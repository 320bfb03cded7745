"""Bad input for every command, generated from a grammar, and a judge of what the command does with it.

``python -m tools.verify.bad_inputs`` makes more than 1,000 calls. Each must end with exit code 2 and one sentence,
without a traceback, within 60 seconds and 3 GiB, and must change no file. CONTRIBUTING.md says how to add a kind.
"""

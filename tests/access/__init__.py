"""What AWS would say to the calls that an emulator let pass.

Emulators enforce no role. So the AWS calls of every function are recorded (`infra.local.calls`),
each is turned into what AWS authorizes for it (`needs`), and that is judged by the policies of the
deployment (`policies`, `stack`). `compare` holds the two against each other in both directions: what
is not granted, and what is granted and never used. `watched` does the former for tests that run
handlers in their own process.
"""

"""Programs that ask a server as the public clients of the Open Inference Protocol do.

They run on an environment of their own (``.tools/clients``, `make setup-clients`), where the clients
are as their users install them, and know nothing of Millrace: a plan comes on standard input, what
was answered goes to standard output, both JSON.
"""

"""The endpoints of the registry's app, by what they are about: each decodes, calls and encodes."""

"""The command line of Millrace: everything here talks to a deployed stack, and never ships to it."""

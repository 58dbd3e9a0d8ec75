"""Stand-ins for the ports, in memory; each passes the contract tests of its adapter."""

"""What the embedded cloud must do, gap by gap."""

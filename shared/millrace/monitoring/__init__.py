"""What is known of predictions after they were made: captured requests, and labels that came."""

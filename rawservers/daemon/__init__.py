"""What makes a daemon of the servers: a process that runs until it is told to stop, and says what it did."""

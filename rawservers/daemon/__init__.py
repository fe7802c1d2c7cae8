"""The daemon: a supervisor process and its workers, their shared counters, privileges, and the interface to systemd."""

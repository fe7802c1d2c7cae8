"""What any protocol on a stream socket needs: bind, listen, accept, read, write, time out, close. Knows no protocol."""

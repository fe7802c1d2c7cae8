"""Small programs of which each is one side of a comparison."""

"""What the tests of the types share."""

"""Applications of fastbn on real data: small programs that train a network, draw its result and print a number."""

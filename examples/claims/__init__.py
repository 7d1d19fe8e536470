"""The claims of the literature about batch normalization, one script each; docs/claims.md has what they show."""

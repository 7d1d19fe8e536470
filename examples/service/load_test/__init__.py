"""Loads the service with wrk, kills its workers meanwhile, and writes docs/guides/service.md's table and picture."""

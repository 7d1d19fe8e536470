"""Loads the service with wrk, kills its workers meanwhile, and writes docs/service.md's table and picture."""

"""A load test of the service with wrk, which also kills workers and writes the results to docs/guides/service.md."""

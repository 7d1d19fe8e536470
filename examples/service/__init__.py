"""An HTTP service that classifies handwritten digits with a network that uses fastbn.

    pip install ".[service]"
    python -m examples.service --workers 2 --port 8000
    curl --data-binary @digit.png -H "Content-Type: image/png" http://127.0.0.1:8000/predict

docs/guides/service.md describes the service and its load test.
"""

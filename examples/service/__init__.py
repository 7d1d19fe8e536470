"""A service that tells handwritten digits apart, with fastbn in every layer.

    pip install ".[service]"
    python -m examples.service --workers 2 --port 8000
    curl --data-binary @digit.png -H "Content-Type: image/png" http://127.0.0.1:8000/predict

docs/service.md explains it, and tells what was measured.
"""

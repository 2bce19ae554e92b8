"""An HTTP service beside the worker: `uvicorn --factory examples.api.app:create_app`."""

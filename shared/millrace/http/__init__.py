"""The HTTP side: routes, problem details, API models, and the Lambda entry of FastAPI apps."""

"""The processes of a deployment: broker, coordinator, and one process or more for each service."""

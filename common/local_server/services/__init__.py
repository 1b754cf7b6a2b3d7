"""The API's services, one module each: `ENDPOINTS` maps an action to its function."""

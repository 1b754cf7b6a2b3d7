"""The HTTP side of an instance: routes, access, admission, and the way to the engines and back."""

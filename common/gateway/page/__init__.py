"""The page that an instance serves at ``/``: its document, its data and the browser's log-in."""

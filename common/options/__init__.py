"""Options: declared once as typed fields; names, validation, command line and docs derive from them."""

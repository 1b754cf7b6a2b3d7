"""What happened: one record per request, and the exporters that read them."""

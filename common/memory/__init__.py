"""Universal Memory: which models are on the devices, which wait in host RAM or on disk."""

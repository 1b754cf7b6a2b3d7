"""What the apps share: options, models, engines, gateway, telemetry, the ClearML side, the command line."""

"""What production does: log windows, drift, quality, the trigger, failure cases."""

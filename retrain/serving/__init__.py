"""`retrain serve`: one door for users, the champions behind it, and the logs that start the next loop."""

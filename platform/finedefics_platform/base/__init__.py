"""What everything stands on: storage, the workspace, Ray sessions, events, progress."""

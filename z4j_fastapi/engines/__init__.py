"""Engine adapters: one folder an engine, each imported only when its handle or worker is there."""

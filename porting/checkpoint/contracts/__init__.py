"""What loaders ask of a converted folder, one format a file; written from their sources, not from our writers."""

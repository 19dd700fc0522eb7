"""The store of a document: versions, runs, copies of recordings, exports; garbage collection."""

"""One reader for each format of a source: files of a corpus in, examples out."""

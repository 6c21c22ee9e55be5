"""`python -m pagedkv.bench attention`: attention over paged caches beside other implementations on
the CPU, called in turns in one process, every result checked first."""

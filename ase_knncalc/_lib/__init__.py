"""Files, progress, profiling, processes, threads and rows on disk: nothing of chemistry."""

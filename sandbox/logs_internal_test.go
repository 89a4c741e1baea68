package sandbox

// SetOutputFileBytes makes the files of the log of output small.
func SetOutputFileBytes(n int64) { testOutputFileBytes = n }

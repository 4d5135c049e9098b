package credential

import "io/fs"

func handedOver(fs.FileInfo) bool { return false }

package binlog

import "github.com/podworks/podworks/internal/hook"

// The protections that tests switch off.
const (
	TakeBack   hook.Protection = takeBack
	CompareSet hook.Protection = compareSet
	WatchNames hook.Protection = watchNames
	WaitLong   hook.Protection = waitLong
)

// Package story holds the tests of the whole: they compose sharding and ferry
// as an application does, on real servers and in processes of their own that
// are killed and frozen. There is nothing in it to import.
package story

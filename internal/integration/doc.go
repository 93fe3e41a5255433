// Package integration has the tests that cross features and stores: races, crashes, processes that are killed or stand
// still, and all that has to hold on every kind of store.
package integration

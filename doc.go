// Package podworks holds the words and seams that the packages of the suite
// share: shop, pod, region, epoch, route, and the transaction that carries
// commit hooks. It does nothing by itself; import the package that does the
// job you have (sharding, routing, ferry, …) and meet these types in its API.
//
// A shop is a tenant. A pod is a fully isolated set of stores that serves many
// shops. A move takes one shop from a pod to another while it trades, and
// raises the shop's epoch: whoever still names the old epoch is refused by the
// database itself.
//
// Two rules carry the architecture, and the packages make them hard to break:
// every request, job and query is annotated with its shop, and one unit of
// work touches one pod.
package podworks

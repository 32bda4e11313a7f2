package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/matrix"
	"github.com/podworks/podworks/toxi/toxitest"
)

// recoverWithin is how long after a fault everything is as before.
const recoverWithin = 3 * time.Second

// slow is how much later a slow server answers; a page has several answers behind it.
const slow = 50 * time.Millisecond

var (
	commit = regexp.MustCompile(`(?i)^COMMIT`)
	poll   = regexp.MustCompile(`^SELECT version FROM podworks_version`) // of the directory and the edge
)

// TestResiliency proves RESILIENCY.md.
func TestResiliency(t *testing.T) {
	if testing.Short() {
		t.Skip("breaks every store in every way")
	}
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		t.Parallel() // most of it is waiting for what doesn't answer
		m := openMall(t, family)
		declared := m.matrix()
		if family == testcluster.MariaDB {
			declared.Golden = "RESILIENCY.md"
		} else {
			// The same holds, and what is no database is no other one.
			declared.Name += "-" + string(family)
			declared.Expect = withoutDatabases
			declared.Dependencies = slices.DeleteFunc(declared.Dependencies, func(d matrix.Dependency) bool { return !strings.Contains(withoutDatabases, d.Name+"/") })
		}
		t.Run("shed", m.shed)
		matrix.Run(t, declared)
	})
}

// What users get, in words for each section and each fault. The first section is
// all that there is to a shop in the pod that is well; the others are of the pod that
// is struck, and of both when it is the master database.
//
// A pod's shops need its database, and can do without its other stores. Nobody in a
// shop needs the master database, unless the shop has just moved: who has not heard
// of that reads the pod that it left, and is refused there when they write.
const (
	withoutDatabases = `
            pod1.mysql/down  pod1.mysql/slow  pod1.mysql/flapping  pod1.mysql/reset  pod1.mysql/hung  pod1.mysql/commit-lost  pod1.mysql/commit-hung
other-pod   up               up               up                   up                up               up                      up
storefront  degraded         up               degraded             degraded          degraded         up                      up
product     down             up               degraded             down              down             up                      up
cart        down             up               degraded             down              down             up                      up
checkout    down             up               degraded             down              down             up                      down
order       down             up               degraded             down              down             up                      up
jobs        down             up               up                   down              down             up                      down
admin       down             up               degraded             down              down             up                      up

            pod2.mysql/killed  pod2.mysql/frozen
other-pod   up                 up
storefront  degraded           degraded
product     down               down
cart        down               down
checkout    down               down
order       down               down
jobs        down               down
admin       down               down

            master/down  master/slow  master/flapping  master/reset  master/hung  master/killed  master/frozen
other-pod   up           up           up               up            up           up             up
storefront  up           up           up               up            up           up             up
product     up           up           up               up            up           up             up
cart        up           up           up               up            up           up             up
checkout    up           up           up               up            up           up             up
order       up           up           up               up            up           up             up
jobs        up           up           up               up            up           up             up
admin       down         up           degraded         down          down         down           down

            directory/stale  directory/cut
other-pod   up               up
storefront  up               up
product     up               up
cart        up               up
checkout    up               up    # refused by the old pod, whose fence says where the new one is
order       up               up
jobs        down             down  # there are none in the old pod
admin       down             down
`
	withoutOthers = `
            pod1.redis/down  pod1.redis/slow  pod1.redis/flapping  pod1.redis/reset  pod1.redis/hung
other-pod   up               up               up                   up                up
storefront  up               up               up                   up                up
product     up               up               up                   up                up
cart        degraded         up               degraded             degraded          degraded
checkout    up               up               up                   up                up
order       up               up               up                   up                up
jobs        up               up               up                   up                up
admin       up               up               up                   up                up

            pod1.memcached/down  pod1.memcached/slow  pod1.memcached/flapping  pod1.memcached/reset  pod1.memcached/hung
other-pod   up                   up                   up                       up                    up
storefront  up                   up                   up                       up                    up
product     up                   up                   up                       up                    up
cart        up                   up                   up                       up                    up
checkout    up                   up                   up                       up                    up
order       up                   up                   up                       up                    up
jobs        up                   up                   up                       up                    up
admin       up                   up                   up                       up                    up

            pod2/frozen
other-pod   up
storefront  down
product     down
cart        down
checkout    down
order       down
jobs        down
admin       down

            pod2.redis/killed  pod2.redis/frozen
other-pod   up                 up
storefront  up                 up
product     up                 up
cart        degraded           degraded
checkout    up                 up
order       up                 up
jobs        up                 up
admin       up                 up

            pod2.memcached/killed  pod2.memcached/frozen
other-pod   up                     up
storefront  up                     up
product     up                     up
cart        up                     up
checkout    up                     up
order       up                     up
jobs        up                     up
admin       up                     up
`
)

// matrix declares what is struck, and what is probed meanwhile.
func (m *mall) matrix() matrix.Matrix {
	section := func(name, owner string, p probe, shops func() []shop) matrix.Section {
		return matrix.Section{Name: name, Owner: owner, Runbook: "RUNBOOK.md#" + name, Probe: p.at(shops)}
	}
	pod1, pod2, master := m.wires[firstPod], m.servers.Pods[secondPod], m.wires[0]
	return matrix.Matrix{
		Name:     "flashsale",
		Deadline: patience,
		Recover:  recoverWithin,
		Sections: []matrix.Section{
			section("other-pod", "platform", m.neighbour, m.elsewhere),
			section("storefront", "browsing", m.storefront, m.here),
			section("product", "browsing", m.product, m.here),
			section("cart", "buying", m.cart, m.here),
			section("checkout", "buying", m.checkout, m.tills),
			section("order", "buying", m.order, m.here),
			section("jobs", "payments", m.jobs, m.tills),
			section("admin", "platform", m.admin, m.here),
		},
		Dependencies: []matrix.Dependency{
			{Name: "pod1.mysql", Faults: append(m.network(firstPod, pod1.mysql, m.old(firstPod)),
				// The server does what it was told, and nobody hears of it; or it doesn't.
				matrix.Fault{Name: "commit-lost", Inject: toxics(pod1.mysql, toxi.MySQL{Match: commit, Cut: toxi.CutAfter}).in(m, firstPod)},
				matrix.Fault{Name: "commit-hung", Inject: toxics(pod1.mysql, toxi.MySQL{Match: commit, Delay: time.Minute}).in(m, firstPod)},
			)},
			{Name: "pod1.redis", Faults: m.network(firstPod, pod1.redis, nothing)},
			{Name: "pod1.memcached", Faults: m.network(firstPod, pod1.memcached, nothing)},
			{Name: "pod2.mysql", Faults: m.process(secondPod, pod2.mysql, m.old(secondPod))},
			{Name: "pod2.redis", Faults: m.process(secondPod, pod2.redis, nothing)},
			{Name: "pod2.memcached", Faults: m.process(secondPod, pod2.memcached, nothing)},
			{Name: "pod2", Faults: []matrix.Fault{
				{Name: "frozen", Inject: frozen(pod2.mysql, pod2.redis, pod2.memcached).in(m, secondPod)},
			}},
			{Name: "master", Faults: append(m.network(masterStruck, master.mysql, nothing), m.process(masterStruck, m.servers.master, nothing)...)},
			{Name: "directory", Faults: []matrix.Fault{
				// What changed isn't heard, and what is asked for is answered.
				{Name: "stale", Inject: m.moves(toxics(master.mysql, toxi.MySQL{Match: poll, Delay: time.Minute})).in(m, firstPod)},
				{Name: "cut", Inject: m.moves(toxics(master.mysql, toxi.Refuse{})).in(m, firstPod)},
			}},
		},
		Expect: withoutDatabases + withoutOthers,
	}
}

// network returns the faults of the network before a pod's store, or before the
// master database if pod is masterStruck.
func (m *mall) network(pod podworks.PodID, p *toxitest.Proxy, also func() error) []matrix.Fault {
	return []matrix.Fault{
		{Name: "down", Inject: toxics(p, toxi.Refuse{}).then(also).in(m, pod)},
		{Name: "slow", Inject: toxics(p, toxi.Latency{Delay: slow}).then(also).in(m, pod)},
		{Name: "flapping", Inject: flapping(p).then(also).in(m, pod)},
		{Name: "reset", Inject: toxics(p, toxi.ResetPeer{}).then(also).in(m, pod)},
		{Name: "hung", Inject: hung(p).then(also).in(m, pod)},
	}
}

// process returns the faults of a pod's server itself.
func (m *mall) process(pod podworks.PodID, p *testcluster.Process, also func() error) []matrix.Fault {
	return []matrix.Fault{
		{Name: "killed", Inject: killed(p).then(also).in(m, pod)},
		{Name: "frozen", Inject: frozen(p).then(also).in(m, pod)},
	}
}

// old returns a function that makes the cached pages of a pod's shop old, as most are
// when a database fails.
func (m *mall) old(pod podworks.PodID) func() error {
	return func() error { return m.age(pod) }
}

func nothing() error { return nil }

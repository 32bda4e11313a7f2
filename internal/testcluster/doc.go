// Package testcluster starts real servers for tests and examples: MySQL and
// MariaDB, Redis, memcached. A server that the test controls can be paused,
// killed and restarted, which is what a mock cannot do and a shared server must
// not.
//
// Each server runs from the binary on the machine, in a private directory, on a
// unix socket there, so that nothing is configured, nothing collides, and any
// number of test processes run side by side. When Start returns, the server has
// answered a query. When Stop returns, its process is gone and so is its
// directory. A process that was killed cannot stop its servers: the next
// process to start one finds and removes them.
//
// Servers run in process groups of their own. An interrupt from the keyboard
// therefore reaches only the program, which stops them in the order it wants.
//
// Data does not outlive a server's Stop, and the settings are for speed: what
// was committed survives Kill, which is the death of a process, and would not
// survive that of the machine. MySQLOptions.Durable changes that.
//
// # Binaries
//
//	mariadb    PODWORKS_MARIADBD, or mariadbd or mysqld on the path
//	mysql      PODWORKS_MYSQLD, or mysqld on the path, or what scripts/mysql unpacked
//	redis      PODWORKS_REDIS_SERVER, or redis-server on the path
//	memcached  PODWORKS_MEMCACHED, or memcached on the path
//
// Debian's mysqld is MariaDB under another name, so a mysqld is asked for its
// version before it is believed. "make setup" installs all but MySQL, which is
// not in Debian stable: "make mysql" unpacks it into the user's cache folder.
//
// # Tests
//
//	func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }
//
//	func TestInsert(t *testing.T) {
//		testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
//			s := testcluster.Server(t, f)
//			db, err := sql.Open("mysql", s.DSN(testcluster.Database(t, s)))
//			...
//		})
//	}
//
// Server is shared by the tests of a package, each with a database of its own.
// A test that pauses, kills or configures a server starts its own with Start.
package testcluster

package testcluster
import ("testing";"os";"time";"strings")
func TestMain(m *testing.M) { os.Exit(Main(m)) }
func TestZ(t *testing.T) {
 for _, f := range Families() {
 for _, a:=range strings.Split(os.Getenv("V"),";") { for range 4 { t0:=time.Now(); s:=Start(t,&MySQLOptions{Family:f,Args:strings.Fields(a)}); d:=time.Since(t0); t0=time.Now(); s.Stop(); t.Log(f, a, d, time.Since(t0))
 } } }
}

module github.com/podworks/podworks/examples

go 1.25.0

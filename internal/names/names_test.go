package names

import "testing"

func TestRanges(t *testing.T) {
	for _, test := range []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"a"}, "a"},
		{[]string{"a-0", "a-1", "a-2", "b"}, "a-{0..2}, b"},
		{[]string{"a-0", "a-2"}, "a-0, a-2"},
		{[]string{"a-01", "a-02"}, "a-01, a-02"},
		{[]string{"x@w-9", "x@w-10"}, "x@w-{9..10}"},
	} {
		if got := Ranges(test.names); got != test.want {
			t.Errorf("%v is written %q, not %q", test.names, got, test.want)
		}
	}
}

func TestPeopleCount(t *testing.T) {
	if got := Ranges(Sorted([]string{"w-10", "w-2", "c", "w-9", "w-2", "c-1", "w-11"})); got != "c, c-1, w-2, w-{9..11}" {
		t.Error(got)
	}
}

// Package artifact says which bytes a cluster's programs and images are, gets
// them, and proves them.
//
// [Wanted] reads a tree; [Client.Lock] finds out what the official places (or a
// mirror, or a directory) have and writes it down as a [Lock]; [Client.Fetch]
// brings exactly that into a [Cache]; [Cache.Verify] hashes it again. It
// promises that nothing enters the cache under a digest that it does not have,
// and that an interrupted run leaves only what the next one goes on with. It
// refuses plain HTTP, redirects to it, web pages in a file's place, programs
// for another machine, and archives that lead out of themselves.
package artifact

package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// content is what bytes are known by. The zero value is not known yet.
type content struct {
	SHA256 string
	Size   int64
}

func (c content) String() string { return fmt.Sprintf("%d bytes with SHA-256 %s", c.Size, c.SHA256) }

// Cache keeps artefacts by digest: DIR/sha256/DIGEST, each written whole or not
// at all, and what a cut-off download has so far in DIR/partial.
type Cache struct{ dir string }

// OpenCache makes the directories of a cache where they are missing.
func OpenCache(dir string) (*Cache, error) {
	for _, d := range []string{"sha256", "partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return &Cache{dir}, nil
}

// Path is where the bytes with a digest are, if they are there.
func (c *Cache) Path(digest string) string { return filepath.Join(c.dir, "sha256", digest) }

// put writes bytes under their digest. Bytes other than those that are wanted
// are not kept.
func (c *Cache) put(from io.Reader, want content) (content, error) {
	temp, err := os.CreateTemp(filepath.Join(c.dir, "partial"), ".new-*")
	if err != nil {
		return content{}, err
	}
	defer os.Remove(temp.Name()) // nothing is there after adopt
	_, err = io.Copy(temp, from)
	if err := errors.Join(err, temp.Close()); err != nil {
		return content{}, err
	}
	return c.adopt(temp.Name(), want)
}

// adopt moves a finished file to its digest, after its bytes were read again
// from the disk.
func (c *Cache) adopt(path string, want content) (content, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	got, err := hashed(f)
	if err != nil {
		return content{}, err
	}
	if want != (content{}) && got != want {
		return got, &otherBytes{got, want}
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), os.Rename(path, c.Path(got.SHA256))); err != nil {
		return content{}, err
	}
	return got, syncDir(filepath.Join(c.dir, "sha256"))
}

// otherBytes says what came in place of what.
type otherBytes struct{ got, want content }

func (o *otherBytes) Error() string { return fmt.Sprintf("%s came, not %s", o.got, o.want) }

func hashed(r io.Reader) (content, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, r)
	return content{hex.EncodeToString(hash.Sum(nil)), n}, err
}

// syncDir makes a rename in a directory survive a crash.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// WriteLock writes a lock to its file in one step, and makes the directory.
func WriteLock(path string, l *Lock) (err error) {
	text, err := l.YAML()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err := errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// ReadLock reads the lock in a file.
func ReadLock(path string) (*Lock, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &Fault{What: "there is no " + path, Help: "kthwc artifacts lock writes it"}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLock+1))
	if err != nil {
		return nil, err
	}
	l, err := ParseLock(text)
	if err != nil {
		return nil, fault("take the committed file back, or remove it and lock again", "%s: %s", path, err)
	}
	return l, nil
}

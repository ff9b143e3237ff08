package crifake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const imageSize = 1 << 20

// AddImage makes an image present, as if pulled before, and returns its ID.
func (s *Server) AddImage(ref string) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addImage(ref).Id
}

// PinImage makes an image one that the runtime wants kept.
func (s *Server) PinImage(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if image := s.image(id); image != nil {
		image.Pinned = true
	}
}

func (s *Server) addImage(ref string) *runtimeapi.Image {
	name := normal(ref)
	if image := s.images[name]; image != nil {
		return image
	}
	sum := sha256.Sum256([]byte(name))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	repo, tagged := name, []string{name}
	if before, after, ok := strings.Cut(name, "@"); ok {
		repo, digest, tagged = before, after, nil
	} else if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		repo = name[:i]
	}
	image := &runtimeapi.Image{
		Id: digest, RepoTags: tagged, RepoDigests: []string{repo + "@" + digest}, Size: imageSize, Spec: &runtimeapi.ImageSpec{Image: name},
	}
	s.images[name] = image
	return image
}

// image finds by reference, digest or ID. Callers hold mu.
func (s *Server) image(ref string) *runtimeapi.Image {
	if image := s.images[normal(ref)]; image != nil {
		return image
	}
	for _, image := range s.images {
		if image.Id == ref || slices.Contains(image.RepoDigests, ref) {
			return image
		}
	}
	return nil
}

// normal adds the tag that a reference lacks.
func normal(ref string) string {
	if ref == "" || strings.Contains(ref, "@") || strings.HasPrefix(ref, "sha256:") || strings.LastIndexByte(ref, ':') > strings.LastIndexByte(ref, '/') {
		return ref
	}
	return ref + ":latest"
}

func firstTag(image *runtimeapi.Image) string {
	if len(image.RepoTags) > 0 {
		return image.RepoTags[0]
	}
	return image.Id
}

// PullImage makes the image present. FailNext stands for a registry that refuses.
func (s *Server) PullImage(_ context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &runtimeapi.PullImageResponse{ImageRef: s.addImage(r.GetImage().GetImage()).Id}, nil
}

// ImageStatus has no image in its answer when there is none.
func (s *Server) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if image := s.image(r.GetImage().GetImage()); image != nil {
		return &runtimeapi.ImageStatusResponse{Image: proto.CloneOf(image)}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

// ListImages returns all images.
func (s *Server) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &runtimeapi.ListImagesResponse{}
	for _, name := range slices.Sorted(maps.Keys(s.images)) {
		out.Images = append(out.Images, proto.CloneOf(s.images[name]))
	}
	return out, nil
}

// RemoveImage removes an image under all its names.
func (s *Server) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if image := s.image(r.GetImage().GetImage()); image != nil {
		maps.DeleteFunc(s.images, func(_ string, other *runtimeapi.Image) bool { return other.Id == image.Id })
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo reports the size of the images on one filesystem.
func (s *Server) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/var/lib/crifake"},
		UsedBytes: &runtimeapi.UInt64Value{Value: uint64(len(s.images)) * imageSize}, InodesUsed: &runtimeapi.UInt64Value{Value: uint64(len(s.images))},
	}}}, nil
}

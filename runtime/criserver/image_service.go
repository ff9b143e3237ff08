package criserver

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/oci"
)

// PullImage fetches an image from its registry.
func (s *Server) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("%w: no image to pull", oci.ErrInvalid)
	}
	id, err := s.images.Pull(ctx, ref, r.GetAuth())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}

// ListImages lists the images that match a filter.
func (s *Server) ListImages(_ context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	found := s.images.List()
	if ref := r.GetFilter().GetImage().GetImage(); ref != "" {
		found = nil
		if image, ok := s.images.Image(ref); ok {
			found = append(found, image)
		}
	}
	response := &runtimeapi.ListImagesResponse{}
	for _, image := range found {
		response.Images = append(response.Images, imageItem(image))
	}
	return response, nil
}

// StreamImages is ListImages for answers of any length.
func (s *Server) StreamImages(r *runtimeapi.StreamImagesRequest, stream runtimeapi.ImageService_StreamImagesServer) error {
	all, _ := s.ListImages(stream.Context(), &runtimeapi.ListImagesRequest{Filter: r.GetFilter()})
	return inPieces(all.GetImages(), func(part []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: part})
	})
}

// ImageStatus describes an image; one that is not there has no description.
func (s *Server) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("%w: no image to look for", oci.ErrInvalid)
	}
	image, ok := s.images.Image(ref)
	if !ok {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	response := &runtimeapi.ImageStatusResponse{Image: imageItem(image)}
	if r.GetVerbose() {
		response.Info = info(map[string]any{"imageSpec": image.Config})
	}
	return response, nil
}

// imageItem is an image in the CRI's terms.
func imageItem(image *images.Image) *runtimeapi.Image {
	item := &runtimeapi.Image{
		Id: image.ID, RepoTags: image.Tags, RepoDigests: image.Digests, Size: image.Size,
		Spec: &runtimeapi.ImageSpec{Image: image.ID},
	}
	// A group of the image's user is not told: the kubelet asks for the user alone.
	user, _, _ := strings.Cut(image.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		item.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		item.Username = user
	}
	return item
}

// RemoveImage removes an image with all its tags. One that is not there is no error.
func (s *Server) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("%w: no image to remove", oci.ErrInvalid)
	}
	if err := s.images.Remove(ctx, ref); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo tells how much of the disk images and writable layers take. Both are in one place.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	bytes, inodes, err := s.images.Usage(ctx)
	if err != nil {
		return nil, fmt.Errorf("measure images: %w", err)
	}
	usage := s.filesystemUsage(time.Now(), bytes, inodes)
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{usage}, ContainerFilesystems: []*runtimeapi.FilesystemUsage{usage}}, nil
}

func (s *Server) filesystemUsage(now time.Time, bytes, inodes uint64) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp: now.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.path("images")},
		UsedBytes: &runtimeapi.UInt64Value{Value: bytes}, InodesUsed: &runtimeapi.UInt64Value{Value: inodes},
	}
}

//! With a GPU: each window has a texture, of which only what is new is written, and a swapchain.

use super::{Content, Decoration, Drawn, Frame, Label, PaintError, Painter, Surface, Target};
use std::sync::{Arc, Mutex, PoisonError};
use wgpu::CurrentSurfaceTexture;
use window_memory::{Area, PIXEL};
use winit::event_loop::OwnedDisplayHandle;

/// What a pixel of a guest is: blue, green, red, alpha in a byte each, taken as they are.
const PIXELS: wgpu::TextureFormat = wgpu::TextureFormat::Bgra8Unorm;
/// Bytes of the shader's `Window`.
const UNIFORM: u64 = 64;

/// Draws with wgpu.
pub struct Gpu {
    instance: wgpu::Instance,
    shared: Arc<Shared>,
    name: String,
}

/// What all windows draw with.
struct Shared {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    layout: wgpu::BindGroupLayout,
    pipeline_layout: wgpu::PipelineLayout,
    shader: wgpu::ShaderModule,
    /// Longest side of a texture.
    longest: u32,
    /// Why the device is of no more use.
    lost: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// The first adapter that will do: one of hardware, or, when `any`, also one of software.
    ///
    /// # Errors
    /// There is none.
    pub fn new(display: OwnedDisplayHandle, any: bool) -> Result<Self, PaintError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::GL;
        descriptor.display = Some(Box::new(display));
        let instance = wgpu::Instance::new(descriptor);
        let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        adapters.retain(|adapter| any || adapter.get_info().device_type != wgpu::DeviceType::Cpu);
        // The one that most likely drives the screen first.
        adapters.sort_by_key(|adapter| {
            let info = adapter.get_info();
            let kind = match info.device_type {
                wgpu::DeviceType::IntegratedGpu => 0,
                wgpu::DeviceType::DiscreteGpu => 1,
                wgpu::DeviceType::VirtualGpu => 2,
                wgpu::DeviceType::Other => 3,
                wgpu::DeviceType::Cpu => 4,
            };
            let vulkan = info.backend == wgpu::Backend::Vulkan;
            // Windows with alpha stay empty with Mesa's Vulkan in software, see `Gpu::open`.
            (kind, vulkan == (info.device_type == wgpu::DeviceType::Cpu))
        });
        let adapter = adapters.into_iter().next().ok_or(PaintError::Missing("GPU"))?;
        let info = adapter.get_info();
        let name = format!("{} ({}, {})", info.name, info.backend, info.driver);
        Ok(Self { instance, shared: Arc::new(Shared::new(adapter)?), name })
    }
}

impl Shared {
    fn new(adapter: wgpu::Adapter) -> Result<Self, PaintError> {
        let longest = adapter.limits().max_texture_dimension_2d;
        let limits = wgpu::Limits {
            max_texture_dimension_2d: longest,
            ..wgpu::Limits::downlevel_webgl2_defaults()
        };
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("compositor"),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        });
        let (device, queue) =
            pollster::block_on(request).map_err(|error| PaintError::Lost(error.to_string()))?;
        let lost = Arc::new(Mutex::new(None));
        let note = |lost: &Arc<Mutex<Option<String>>>| {
            let lost = Arc::clone(lost);
            move |reason: String| {
                lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
            }
        };
        let gone = note(&lost);
        device.set_device_lost_callback(move |reason, message| {
            // It ends with us, too.
            if reason != wgpu::DeviceLostReason::Destroyed {
                gone(message);
            }
        });
        let failed = note(&lost);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| failed(error.to_string())));

        let texture = |binding| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::FRAGMENT,
            ty: wgpu::BindingType::Texture {
                sample_type: wgpu::TextureSampleType::Float { filterable: false },
                view_dimension: wgpu::TextureViewDimension::D2,
                multisampled: false,
            },
            count: None,
        };
        let uniform = wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::FRAGMENT,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: false,
                min_binding_size: wgpu::BufferSize::new(UNIFORM),
            },
            count: None,
        };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("window"),
            entries: &[uniform, texture(1), texture(2)],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("window"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let shader = device.create_shader_module(wgpu::include_wgsl!("gpu.wgsl"));
        Ok(Self { adapter, device, queue, layout, pipeline_layout, shader, longest, lost })
    }

    fn check(&self) -> Result<(), PaintError> {
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(PaintError::Lost(reason.clone())),
            None => Ok(()),
        }
    }

    fn texture(&self, width: u32, height: u32) -> wgpu::Texture {
        self.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("window"),
            size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: PIXELS,
            usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        })
    }

    fn write(&self, texture: &wgpu::Texture, pixels: &[u8], stride: usize, area: &Area) {
        let width = area.width.min(texture.width().saturating_sub(area.x));
        let height = area.height.min(texture.height().saturating_sub(area.y));
        if width == 0 || height == 0 {
            return;
        }
        let start = area.y as usize * stride + (area.x * PIXEL) as usize;
        self.queue.write_texture(
            wgpu::TexelCopyTextureInfo {
                texture,
                mip_level: 0,
                origin: wgpu::Origin3d { x: area.x, y: area.y, z: 0 },
                aspect: wgpu::TextureAspect::All,
            },
            &pixels[start..],
            wgpu::TexelCopyBufferLayout {
                offset: 0,
                bytes_per_row: u32::try_from(stride).ok(),
                rows_per_image: None,
            },
            wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        );
    }
}

impl Painter for Gpu {
    fn name(&self) -> &str {
        &self.name
    }

    fn lose(&mut self) {
        self.shared.device.destroy();
    }

    fn open(&mut self, target: &Target) -> Result<Box<dyn Surface>, PaintError> {
        self.shared.check()?;
        let unsupported =
            |problem: String| PaintError::Unsupported { painter: self.name.clone(), problem };
        let info = self.shared.adapter.get_info();
        let lavapipe =
            info.device_type == wgpu::DeviceType::Cpu && info.backend == wgpu::Backend::Vulkan;
        if lavapipe && target.depth == 32 {
            // Mesa 22.3 puts images of depth 24 there, whatever the window's, which the X server refuses.
            return Err(unsupported("it may show nothing of windows with alpha".to_owned()));
        }
        let window = wgpu::SurfaceTarget::Window(Box::new(Arc::clone(&target.window)));
        let surface =
            self.instance.create_surface(window).map_err(|error| unsupported(error.to_string()))?;
        let able = surface.get_capabilities(&self.shared.adapter);
        let format = [wgpu::TextureFormat::Bgra8Unorm, wgpu::TextureFormat::Rgba8Unorm]
            .into_iter()
            .find(|format| able.formats.contains(format))
            .ok_or_else(|| unsupported(format!("it has only {:?}", able.formats)))?;
        // Paced by acknowledgements: nothing here may wait for a screen that shows something else.
        let present_mode = [wgpu::PresentMode::Mailbox, wgpu::PresentMode::Immediate]
            .into_iter()
            .find(|mode| able.present_modes.contains(mode))
            .unwrap_or(wgpu::PresentMode::Fifo);
        let wanted = if target.depth == 32 {
            [wgpu::CompositeAlphaMode::PreMultiplied, wgpu::CompositeAlphaMode::Inherit]
        } else {
            [wgpu::CompositeAlphaMode::Opaque, wgpu::CompositeAlphaMode::Inherit]
        };
        let alpha_mode = wanted
            .into_iter()
            .find(|mode| able.alpha_modes.contains(mode))
            .unwrap_or(wgpu::CompositeAlphaMode::Auto);
        let shared = Arc::clone(&self.shared);
        let pipeline = shared.device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("window"),
            layout: Some(&shared.pipeline_layout),
            vertex: wgpu::VertexState {
                module: &shared.shader,
                entry_point: Some("corner"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[],
            },
            primitive: wgpu::PrimitiveState::default(),
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &shared.shader,
                entry_point: Some("pixel"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                targets: &[Some(wgpu::ColorTargetState {
                    format,
                    blend: None,
                    write_mask: wgpu::ColorWrites::ALL,
                })],
            }),
            multiview_mask: None,
            cache: None,
        });
        let uniform = shared.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("window"),
            size: UNIFORM,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let configuration = wgpu::SurfaceConfiguration {
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            format,
            color_space: wgpu::SurfaceColorSpace::Auto,
            width: 0,
            height: 0,
            present_mode,
            alpha_mode,
            view_formats: Vec::new(),
            desired_maximum_frame_latency: 1,
        };
        Ok(Box::new(Swapped {
            content: shared.texture(1, 1),
            content_serial: 0,
            label: None,
            label_texture: shared.texture(1, 1),
            bindings: None,
            surface,
            configuration,
            pipeline,
            uniform,
            shared,
        }))
    }
}

/// A window with a swapchain.
struct Swapped {
    surface: wgpu::Surface<'static>,
    configuration: wgpu::SurfaceConfiguration,
    pipeline: wgpu::RenderPipeline,
    uniform: wgpu::Buffer,
    content: wgpu::Texture,
    /// Of the segment that the texture has.
    content_serial: u64,
    label: Option<Label>,
    label_texture: wgpu::Texture,
    bindings: Option<wgpu::BindGroup>,
    shared: Arc<Shared>,
}

impl Surface for Swapped {
    fn draw(&mut self, frame: &Frame<'_>) -> Result<Drawn, PaintError> {
        self.shared.check()?;
        if let Some(content) = frame.content {
            self.upload(content, frame.fresh);
        }
        self.write_label(frame.decoration);
        self.write_uniform(frame);
        let size = [frame.width, frame.height].map(|side| side.clamp(1, self.shared.longest));
        if size != [self.configuration.width, self.configuration.height] {
            [self.configuration.width, self.configuration.height] = size;
            self.surface.configure(&self.shared.device, &self.configuration);
        }
        for _ in 0..3 {
            match self.surface.get_current_texture() {
                CurrentSurfaceTexture::Success(texture)
                | CurrentSurfaceTexture::Suboptimal(texture) => {
                    self.render(texture);
                    self.shared.check()?;
                    return Ok(Drawn::Done);
                }
                // Another size than a moment ago, or the server took it away.
                CurrentSurfaceTexture::Outdated | CurrentSurfaceTexture::Lost => {
                    self.surface.configure(&self.shared.device, &self.configuration);
                }
                // Not to be seen: it is drawn when it is exposed again.
                CurrentSurfaceTexture::Occluded | CurrentSurfaceTexture::Timeout => {
                    return Ok(Drawn::Done);
                }
                CurrentSurfaceTexture::Validation => break,
            }
            self.shared.check()?;
        }
        Err(PaintError::Lost("the window gets no picture to draw into".into()))
    }
}

impl Swapped {
    fn upload(&mut self, content: &Content, fresh: &[Area]) {
        let longest = self.shared.longest;
        let serial = content.segment().serial();
        let whole = [content.area()];
        let areas = if serial == self.content_serial { fresh } else { &whole };
        if serial != self.content_serial {
            let (width, height) = (content.width().min(longest), content.height().min(longest));
            if (self.content.width(), self.content.height()) != (width, height) {
                self.content = self.shared.texture(width, height);
                self.bindings = None;
            }
            self.content_serial = serial;
        }
        for area in areas {
            self.shared.write(&self.content, content.bytes(), content.stride(), area);
        }
    }

    fn write_label(&mut self, decoration: &Decoration) {
        if self.label == decoration.label {
            return;
        }
        self.label.clone_from(&decoration.label);
        if let Some(label) = self.label.as_ref().filter(|label| label.width * label.height > 0) {
            self.label_texture = self.shared.texture(label.width, label.height);
            self.bindings = None;
            let area = Area { x: 0, y: 0, width: label.width, height: label.height };
            let stride = (label.width * PIXEL) as usize;
            self.shared.write(&self.label_texture, &label.pixels, stride, &area);
        }
    }

    fn write_uniform(&self, frame: &Frame<'_>) {
        let corners = |area: Option<Area>| {
            area.map_or([0; 4], |area| [area.x, area.y, area.x + area.width, area.y + area.height])
        };
        let decoration = frame.decoration;
        // The texture may be smaller than the content.
        let size = frame.content_size().map(|(width, height)| {
            (width.min(self.content.width()), height.min(self.content.height()))
        });
        let content = corners(decoration.shown(frame.width, frame.height, size));
        let label = corners(decoration.label_area(frame.width, frame.height).map(|(_, area)| area));
        let [red, green, blue] = decoration.colour.0.map(|part| f32::from(part) / 255.0);
        let mut bytes = Vec::with_capacity(64);
        for number in content.into_iter().chain(label) {
            bytes.extend(number.to_le_bytes());
        }
        for part in [red, green, blue, 1.0] {
            bytes.extend(part.to_le_bytes());
        }
        for flag in [u32::from(frame.alpha), 0, 0, 0] {
            bytes.extend(flag.to_le_bytes());
        }
        self.shared.queue.write_buffer(&self.uniform, 0, &bytes);
    }

    fn render(&mut self, texture: wgpu::SurfaceTexture) {
        let bindings = self.bindings.get_or_insert_with(|| {
            let view = |texture: &wgpu::Texture| {
                texture.create_view(&wgpu::TextureViewDescriptor::default())
            };
            self.shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("window"),
                layout: &self.shared.layout,
                entries: &[
                    wgpu::BindGroupEntry { binding: 0, resource: self.uniform.as_entire_binding() },
                    wgpu::BindGroupEntry {
                        binding: 1,
                        resource: wgpu::BindingResource::TextureView(&view(&self.content)),
                    },
                    wgpu::BindGroupEntry {
                        binding: 2,
                        resource: wgpu::BindingResource::TextureView(&view(&self.label_texture)),
                    },
                ],
            })
        });
        let view = texture.texture.create_view(&wgpu::TextureViewDescriptor::default());
        let mut encoder = self
            .shared
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("window") });
        {
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                label: Some("window"),
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &view,
                    depth_slice: None,
                    resolve_target: None,
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                        store: wgpu::StoreOp::Store,
                    },
                })],
                depth_stencil_attachment: None,
                timestamp_writes: None,
                occlusion_query_set: None,
                multiview_mask: None,
            });
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &*bindings, &[]);
            pass.draw(0..3, 0..1);
        }
        self.shared.queue.submit([encoder.finish()]);
        self.shared.queue.present(texture);
    }
}
